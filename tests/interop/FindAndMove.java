import com.pixelmed.dicom.*;
import com.pixelmed.network.*;
import java.io.File;
import java.util.*;

/**
 * A workstation built on PixelMed: it finds studies by name under one AE title, asks under a second for each of them
 * to be moved, and takes them in under a third.
 *
 * Arguments: host, port, called AE title, find AE title, move AE title, storage AE title, storage port, folder, Patient
 * Name, and any further move destinations. Prints "ready", "found UID", "moved UID DESTINATION STATUS", "received UID".
 */
public class FindAndMove {
    private static final String ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1";
    private static final String ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2";

    public static void main(String[] args) throws Exception {
        String host = args[0];
        int port = Integer.parseInt(args[1]);
        String called = args[2];
        StorageSOPClassSCPDispatcher storage = receive(args[5], Integer.parseInt(args[6]), new File(args[7]));
        System.out.println("ready");

        List<String> studies = find(host, port, called, args[3], args[8]);
        List<String> destinations = new ArrayList<>(List.of(args[5]));
        destinations.addAll(Arrays.asList(args).subList(9, args.length));
        for (String study : studies) {
            System.out.println("found " + study);
            for (String destination : destinations) {
                int status = new MoveSOPClassSCU(host, port, called, args[4], destination, ROOT_MOVE, byUid(study)).getStatus();
                System.out.println("moved " + study + " " + destination + " " + Integer.toHexString(status));
            }
        }
        Thread.sleep(500);
        storage.shutdown();
        System.exit(0);
    }

    private static StorageSOPClassSCPDispatcher receive(String title, int port, File folder) throws Exception {
        StorageSOPClassSCPDispatcher dispatcher = new StorageSOPClassSCPDispatcher(port, title, folder, new ReceivedObjectHandler() {
            public void sendReceivedObjectIndication(String file, String transferSyntax, String calling) {
                System.out.println("received " + new File(file).getName());
            }
        });
        new Thread(dispatcher).start();
        while (!dispatcher.isReady()) Thread.sleep(20);
        return dispatcher;
    }

    private static List<String> find(String host, int port, String called, String calling, String name) throws Exception {
        List<String> studies = new ArrayList<>();
        AttributeList keys = level("STUDY");
        put(keys, new PersonNameAttribute(TagFromName.PatientName), name);
        put(keys, new LongStringAttribute(TagFromName.PatientID), null);
        put(keys, new DateAttribute(TagFromName.PatientBirthDate), null);
        put(keys, new CodeStringAttribute(TagFromName.PatientSex), null);
        put(keys, new UniqueIdentifierAttribute(TagFromName.StudyInstanceUID), null);
        put(keys, new UniqueIdentifierAttribute(TagFromName.SOPInstanceUID), null);
        put(keys, new LongStringAttribute(TagFromName.StudyDescription), null);
        put(keys, new DateAttribute(TagFromName.StudyDate), null);
        new FindSOPClassSCU(host, port, called, calling, ROOT_FIND, keys, new IdentifierHandler() {
            public void doSomethingWithIdentifier(AttributeList match) {
                studies.add(Attribute.getSingleStringValueOrEmptyString(match, TagFromName.StudyInstanceUID));
            }
        });
        return studies;
    }

    private static AttributeList byUid(String study) throws Exception {
        AttributeList keys = level("STUDY");
        put(keys, new UniqueIdentifierAttribute(TagFromName.StudyInstanceUID), study);
        return keys;
    }

    private static AttributeList level(String level) throws Exception {
        AttributeList keys = new AttributeList();
        put(keys, new CodeStringAttribute(TagFromName.QueryRetrieveLevel), level);
        return keys;
    }

    private static void put(AttributeList keys, Attribute attribute, String value) throws Exception {
        if (value != null) attribute.addValue(value);
        keys.put(attribute);
    }
}
